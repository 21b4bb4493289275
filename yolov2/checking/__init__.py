"""What ``python -m yolov2.check`` looks at: pictures, boxes, and how it tells."""
