"""Everything decided: values in, values out; a test over the imports holds it."""
