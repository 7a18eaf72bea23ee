"""The mark of AI-generated pictures."""

from PIL import Image


def is_marked(path) -> bool:
    """Whether a PNG file says in its text and in XMP that it is AI-generated; half a mark is an error."""
    with Image.open(path) as picture:
        text = "AI-generated" in picture.text.get("Comment", "")
        assert text == ("trainedAlgorithmicMedia" in picture.text.get("XML:com.adobe.xmp", ""))
    return text
