"""`report.html`: one file without any request to a network, for every kind of finished folder."""
