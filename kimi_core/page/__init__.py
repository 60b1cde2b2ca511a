"""The status page: what it shows as one record, and that record as HTML and JSON. Pure, and without any secret."""
