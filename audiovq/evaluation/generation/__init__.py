"""How well a prior knows a codec's codes, and how like speech what it draws is."""
