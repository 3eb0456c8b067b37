"""What is made of the stored usage for people."""
