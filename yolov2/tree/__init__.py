"""Trees of words (YOLO9000): their files, building them from label sets, and what is made of their nodes."""
