"""Sealed stores on their way between a folder, object storage, web servers and the Hub."""
