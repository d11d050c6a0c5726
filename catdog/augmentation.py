from __future__ import annotations
import hashlib
import cv2
import numpy as np
def augment(image, *, seed, digest, view, ranges):
    if view == 0: return image
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{digest}:{view}".encode()).digest()[:8], "little"))
    h,w=image.shape[:2]
    m=cv2.getRotationMatrix2D((w/2,h/2), rng.uniform(-40,40), rng.uniform(.8,1.2)); m[:,2]+=rng.uniform(-.2,.2,2)*w
    im=cv2.warpAffine(image,m,(w,h),borderMode=cv2.BORDER_REPLICATE)
    return im[:,::-1] if rng.random()<.5 else im
