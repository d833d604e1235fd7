"""Events: tasks and jobs as they change, sent to whoever listens and may see them."""
