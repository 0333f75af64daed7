"""The tests' own tools: real servers, strict clients, and the accounting recorder."""
