"""The lines that clients need, per provider: what the command line prints and the status page shows. Pure."""
