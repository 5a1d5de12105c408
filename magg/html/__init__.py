"""What notebooks show: tables as HTML."""
