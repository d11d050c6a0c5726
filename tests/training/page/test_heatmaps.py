import io

import numpy as np
from PIL import Image

from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DEFAULT_LIMITS
from catdog.training.page.heatmaps import make_seen_thumbnail


def test_the_heat_lies_over_what_the_network_saw() -> None:
    levels = np.zeros((100, 300, 3), np.uint8)
    levels[:, 100:200] = (255, 0, 0)  # what remains after a crop of the centre
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, "PNG")
    content = sink.getvalue()
    for resize, aspect, red in (("crop", 1.0, 0.99), ("squash", 3.0, 0.33), ("pad", 1.0, 0.11)):
        framing = Framing(resize=resize)
        image = decode_image(content, size=96, framing=framing)
        jpeg = make_seen_thumbnail(content, image, framing=framing, limits=DEFAULT_LIMITS)
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert abs(picture.width / picture.height - aspect) < 0.1
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert abs(((pixels[..., 0] > 200) & (pixels[..., 1] < 60)).mean() - red) < 0.06
