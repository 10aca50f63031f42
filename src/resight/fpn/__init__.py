"""The FPN dialect: Faster R-CNN with a feature pyramid, equal in its numbers to torchvision's."""
