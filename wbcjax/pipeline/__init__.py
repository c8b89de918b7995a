"""The paper's system put together: classifier inputs, training runs, studies of its tables, and ``reproduce``."""
