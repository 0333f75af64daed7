"""One file per question; each says which figures answer it and how they come about."""
