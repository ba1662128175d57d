"""Dense prediction on a pretrained encoder: detection with masks, and semantic segmentation."""
