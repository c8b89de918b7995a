"""Tables, figures and the HTML report, made from results files and plain arrays; nothing here trains or loads data."""
