"""One HTML page that says what runs show, how that was found, and how to find it again."""
