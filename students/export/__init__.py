"""What goes on the phone, in the formats of its runtimes."""
