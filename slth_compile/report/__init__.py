"""Reports for people: HTML, markdown, JSON."""
