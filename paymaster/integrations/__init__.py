"""The SDKs and frameworks that agents are built with, made durable and put under a budget: an extra each."""
