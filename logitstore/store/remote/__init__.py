"""Stores that are not in a folder: object storage, web servers, what reading them costs."""
