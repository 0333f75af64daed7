"""What programs on the other side of the socket use: a client that resumes."""
