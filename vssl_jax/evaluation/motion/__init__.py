"""The protocol `motion`: how much of a score is lost if the frames of clips change their order."""
