"""Tables, figures and the report page, rebuilt from a results folder alone.

`results` is the only reader; `tables`, `figures` and `page` turn what it read into text, pictures and HTML. This room
computes no score, trains nothing, knows no suite model and no MLflow, and imports no torch.
"""
