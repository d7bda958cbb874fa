"""Reports as one HTML file each: no request leaves it, and no name in it becomes markup."""
