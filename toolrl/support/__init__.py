"""What no subject owns: waiting for the code of others, HTTP servers, rows of files, files that are kept, counting."""
