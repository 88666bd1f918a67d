"""What the codes of findings mean to a person: a heading, what to do, and whether a picture shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """One code of a finding.

    Attributes:
        title: Heading.
        fix: What a person does about it.
        drawn: Whether it can be seen in a picture of the case.
        grids: Whether the grids of the files tell more than a picture.
    """

    title: str
    fix: str
    drawn: bool = False
    grids: bool = False


AGAIN = "Copy or export the file again, then dvc repro inspect."
EXPORT = "Export the image again from its source; a header cannot be guessed."
READ = "See what the file is; convert it to .nii.gz, or leave the case out."
CODES: dict[str, Code] = {
    "missing": Code(
        "File is missing", "Put the file there, or take the case out of the data set.", grids=True
    ),
    "unreadable": Code("File cannot be read", READ, grids=True),
    "truncated": Code("File is cut off", AGAIN, grids=True),
    "corrupt": Code("File is damaged", AGAIN, grids=True),
    "shape_invalid": Code(
        "Shape cannot be used", "Store X, Y, Z and channels; time points as cases.", grids=True
    ),
    "geometry_invalid": Code("Geometry cannot be used", EXPORT, grids=True),
    "several_series": Code(
        "Several DICOM series in one folder", "Give each series a folder of its own.", grids=True
    ),
    "duplicate_slice": Code("Doubled DICOM slices", "Remove the second file of each slice.", grids=True),
    "slice_spacing": Code(
        "DICOM slices are missing or unevenly spaced", "Fetch the missing slices.", grids=True
    ),
    "gantry_tilt": Code(
        "Tilted gantry: a sheared grid",
        "Resample the series to an upright grid, with its labels.",
        grids=True,
    ),
    "not_finite": Code("NaN or Inf", "Export the image again, or leave the case out.", drawn=True),
    "constant_image": Code(
        "Image without content", "Export the image again, or leave the case out.", drawn=True
    ),
    "channel_count": Code(
        "Wrong number of channels", "Give every case the channels of dataset.json.", grids=True
    ),
    "geometry_mismatch": Code(
        "Files of one case lie on different grids",
        "Draw or resample the label on the grid of its image; where only the header is wrong, copy the image's "
        "affine into it. Differences that do not matter: raise inspect.affine_tolerance_mm.",
        drawn=True,
        grids=True,
    ),
    "label_channels": Code(
        "Label with several channels", "Store one class a voxel, without colours.", grids=True
    ),
    "label_not_integer": Code(
        "Label values are no whole numbers", "Resample labels by nearest neighbour.", grids=True
    ),
    "label_value_unknown": Code(
        "Label values that dataset.json does not know",
        "Add the values to labels in dataset.json, or correct the label map.",
        drawn=True,
    ),
    "label_position": Code(
        "Label lies where no other case has it",
        "Look at the picture: a shifted or flipped label is drawn anew; a right one needs a higher "
        "inspect.position_outlier.",
        drawn=True,
    ),
    "instance_ids": Code("Ids that cannot be stored", "Number the objects 1, 2, 3 ..."),
    "mask_not_binary": Code(
        "Mask with more than two values",
        "Store the mask without lossy compression, as 0 and one other value.",
    ),
    "empty_mask": Code("Mask file without a pixel", "Remove or redraw the mask."),
    "xml_malformed": Code("Readers' XML cannot be read", "Fetch the XML again."),
    "empty_label": Code(
        "Label without foreground", "Right for a healthy case; else draw the label.", drawn=True
    ),
    "value_range": Code(
        "Values that are not those of the modality",
        "Convert the image to HU (take off the offset, undo the window); or name the channel otherwise than CT.",
        drawn=True,
    ),
    "volume_outlier": Code(
        "Volume far from all others", "Look at the outline; a right one needs nothing.", drawn=True
    ),
    "intensity_outlier": Code(
        "Intensities far from all others",
        "Look at protocol and scale; a right one needs nothing.",
        drawn=True,
    ),
    "duplicate_of": Code(
        "Same voxels under two names",
        "Take the copy out of the data set, or give both one patient_id: split stops when they fall on two sides.",
        drawn=True,
    ),
    "same_patient": Code("One patient under two ids", "Give both cases one patient_id in patients.csv."),
    "identifying_text": Code(
        "Text that may tell who the patient is",
        "Blank the field or rename the file; the text itself is not repeated here.",
    ),
    "nothing_labelled": Code("Nothing is labelled", "Draw the label, or take the case out.", drawn=True),
    "contour_left_out": Code("Contours left out", "See the reason; draw them on slices of the image."),
    "label_joined": Code("Labels joined", "See the reason; nothing, where that is meant."),
    "label_left_out": Code("Labels left out", "See the reason; nothing, where that is meant."),
    "form_conflict": Code("sform and qform disagree", "Make both the same; the sform is used.", grids=True),
    "spacing_conflict": Code(
        "Two voxel sizes in one header", "Correct the header; the affine is used.", grids=True
    ),
    "orientation_unknown": Code(
        "Header without orientation",
        "Export the image again with its orientation; left and right may be exchanged.",
        grids=True,
    ),
    "spacing_unknown": Code(
        "No voxel size", "Write the attribute spacing_mm into the file; 1 mm is taken.", grids=True
    ),
    "instance_without_class": Code(
        "Objects on background", "Label these objects, or remove them.", drawn=True
    ),
    "instance_outside_label": Code(
        "Objects reach beyond the label", "Make label and instances agree.", drawn=True
    ),
    "instance_of_two_classes": Code(
        "Objects of several classes", "Part them; the most frequent counts.", drawn=True
    ),
    "masks_overlap": Code("Masks overlap", "Nothing; a shared voxel goes to the smallest mask."),
    "mask_hidden": Code("Masks beneath others", "Nothing; such a mask has no voxel of its own."),
    "annotation_outside": Code(
        "Annotation outside the image", "Nothing, where the image is a part of the scan."
    ),
    "label_rounded": Code("Label values rounded", "Nothing; store labels as whole numbers to be rid of it."),
    "header_snapped": Code(
        "Label took the image's affine", "Nothing; copy the affine to be rid of it.", grids=True
    ),
    "reoriented": Code(
        "Label turned to the axes of its image", "Nothing; the voxels are the same.", grids=True
    ),
    "axis_dropped": Code("Axes of length 1 dropped", "Nothing; they hold no voxels.", grids=True),
}


def find_code(code: str) -> Code:
    """What is known of a code, such as "duplicate_of:a"; a code of a reader that is not listed heads itself."""
    name = code.partition(":")[0]
    return CODES.get(name, Code(name.replace("_", " ").capitalize(), "See data/README.md.", grids=True))


def is_drawn(code: str) -> bool:
    """Whether a picture of the case shows what the code says."""
    return find_code(code).drawn
