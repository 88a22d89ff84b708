"""The `nestscope` command."""
