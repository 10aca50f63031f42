"""Parts that both dialects share: anchors, box coder, matcher, RoIAlign, heads."""
