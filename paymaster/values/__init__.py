"""What everything else is made of: money, names, bounds, text. Imports nothing else of Paymaster."""
