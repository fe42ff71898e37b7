"""Server and gateway in one process: the program `dcp-market`, and the channel that joins the two."""
