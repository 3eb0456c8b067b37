-- Beside Temporal's own databases, which its server makes itself.
CREATE DATABASE paymaster;
