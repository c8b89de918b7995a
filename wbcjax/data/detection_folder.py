"""A folder of images with boxes, whichever way they are written down: Pascal VOC or COCO."""

from pathlib import Path

from wbcjax.data.coco import coco, read_json, records
from wbcjax.data.sets import DetectionSet
from wbcjax.data.voc import find_voc, inside, voc
from wbcjax.errors import DataError

_LAYOUTS = "a folder Annotations of .xml files beside JPEGImages (VOC), or one .json file with its images (COCO)"


def detection_folder(path: Path, *, strict: bool = False) -> DetectionSet:
    """Read a VOC or COCO data set, recognised by its files.

    Args:
      path: a folder that ``voc`` reads; or one with a single COCO file, in it or in its folder ``annotations``; or a
        COCO file itself. Its images lie beside it, in a folder beside it, or one level further up.
      strict: as in ``voc`` and ``coco``.

    Raises:
      DataError: neither is found, several COCO files are, or their images are not; and what the readers raise.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise DataError(f"{path}: not a .json file; give a COCO file, or a folder that holds {_LAYOUTS}")
        return coco(path, _image_folder(path), strict=strict)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the path")
    if find_voc(path) is not None:
        return voc(path, strict=strict)
    files = _json_files(path) or _json_files(path / "annotations")
    if len(files) > 1:
        raise DataError(f"{path}: holds {len(files)} .json files, {', '.join(f.name for f in files)}; name one of them")
    if files:
        return coco(files[0], _image_folder(files[0]), strict=strict)
    if any(path.glob("*.xml")):
        raise DataError(f"{path}: holds .xml files; move them to {path / 'Annotations'} and the images to "
                        f"{path / 'JPEGImages'}")
    raise DataError(f"{path}: holds no boxes; expected {_LAYOUTS}")


def _json_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.glob("*.json") if not f.name.startswith("."))


def _image_folder(file: Path) -> Path:
    """The folder that the first image of a COCO file lies in."""
    images = records(file, read_json(file), "images", file_name=str)
    folders = [file.parent, *sorted(p for p in file.parent.iterdir() if p.is_dir())]
    if file.parent.name == "annotations":
        above = file.parent.parent
        folders += [above, *sorted(p for p in above.iterdir() if p.is_dir())]
    for folder in folders:
        if not images or inside(folder, images[0]["file_name"], str(file)).is_file():
            return folder
    raise DataError(f"{file}: its first image {images[0]['file_name']} is neither beside it nor in a folder beside it; "
                    f"put the images there")
