"""Other systems' files of distributions: read into a store, and written from one."""
