"""Jobs: work that is done later, outside the request, by whoever has a hand free. The table is the queue."""
