"""Files and folders: replaced in one step, never written through a link, each folder written by one process."""
