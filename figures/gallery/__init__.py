"""The figures, one module each. A new module with a FIGURE is found by its being here."""
