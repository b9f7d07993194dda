"""What bioFAME is compared with: contrastive pre-training and PatchTST."""
