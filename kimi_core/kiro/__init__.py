"""The Kiro half: accounts, requests and answers of the service."""
