"""Classifiers from few labelled cases, on an encoder that stays as it is."""
