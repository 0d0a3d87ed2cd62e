"""The catalogue behind `mithridate explain`: every error code, its cause and its remedy.

Ranges: 00xx general, 01xx configuration and parameters, 02xx data and decoding, 03xx packs and scenarios,
04xx models, 05xx training, 06xx attacks and defenses, 07xx runs, ledgers and audits, 08xx reports, 09xx environment,
10xx ownership.
"""

from typing import NamedTuple


class Explanation(NamedTuple):
    """One page of `mithridate explain`."""

    title: str
    cause: str
    remedy: str


CODES: dict[str, Explanation] = {
    # 00xx general
    "MTH-0001": Explanation(
        "internal error",
        "The program met a situation that it does not foresee: a fault of ours, not of your input.",
        "Report it with the file that the message names: a traceback without values. Finished work is kept.",
    ),
    "MTH-0002": Explanation(
        "interrupted",
        "The run was stopped from outside (Ctrl-C).",
        "Run the same command again: it goes on after the last finished piece of work.",
    ),
    "MTH-0003": Explanation(
        "the command line is not understood",
        "A verb or a flag does not exist, or a value has the wrong type.",
        "`mithridate --help` lists the verbs, `mithridate VERB --help` its flags.",
    ),
    "MTH-0004": Explanation(
        "the machine refused",
        "The operating system refused to read or write: no permission, no space, a folder in place of a file.",
        "Give a folder that may be written with --out, or free some space; then run the same command again.",
    ),
    "MTH-0005": Explanation(
        "a job waits for nothing",
        "A job names another job that it needs, and no such job was given or finished before.",
        "This is a fault of the program that planned the jobs; report it with the two names.",
    ),
    "MTH-0006": Explanation(
        "a worker process died",
        "The operating system ended a worker: most often for want of memory, sometimes by a signal from outside.",
        "Finished work is kept. Run the same command again, with fewer --jobs if memory ran out.",
    ),
    "MTH-0007": Explanation(
        "a job failed in an unforeseen way",
        "Code of a job raised an error that we do not foresee: a fault of ours, of a plugin, or of your model's code.",
        "Finished work is kept. Read the error that the message names; report it if no code of yours is involved.",
    ),
    "MTH-0008": Explanation(
        "out of memory",
        "Main memory or the memory of the accelerator is used up.",
        "Use fewer --jobs, a smaller batch, a narrower model or fewer images; then run the same command again.",
    ),
    "MTH-0009": Explanation(
        "no such error code",
        "`mithridate explain` was asked for a code that this version does not have.",
        "`mithridate explain` without a code lists all of them.",
    ),
    # 01xx configuration and parameters
    "MTH-0101": Explanation(
        "unknown name",
        "There is no attack, defense, model, data set, paper or format of this name.",
        "Use the closest match that the message gives; `mithridate list` prints all names.",
    ),
    "MTH-0102": Explanation(
        "a plugin does not work",
        "An installed package announces this method or data set by an entry point; importing or running it failed.",
        "Update or uninstall the package that the message names.",
    ),
    "MTH-0103": Explanation(
        "epsilon in the wrong unit",
        "Epsilon is a distance between images whose pixels lie in [0, 1]; a number above 1 was given.",
        "Write a fraction such as 16/255, or a decimal such as 0.0627.",
    ),
    "MTH-0104": Explanation(
        "epsilon is no positive number",
        "The text is no fraction and no decimal in (0, 1].",
        "Write a fraction such as 16/255.",
    ),
    "MTH-0105": Explanation(
        "a share outside (0, 1]",
        "A budget is a share of the training set.",
        "Write one percent as 0.01 or 1%.",
    ),
    "MTH-0110": Explanation(
        "a parameter is out of its range",
        "A field of an attack, a defense, a stage or a recipe has a value that its declaration does not allow.",
        "The message gives the range; `mithridate list` names each method's source.",
    ),
    "MTH-0120": Explanation(
        "no such configuration file",
        "The file does not exist, or is a folder.",
        "`mithridate init` writes an annotated audit.yaml; `mithridate audit --demo` needs none.",
    ),
    "MTH-0121": Explanation(
        "the configuration is not valid",
        "Keys are unknown, or values have the wrong type or are out of range; each is named with its line or flag.",
        "`mithridate init` writes an example with every key explained; with --schema it prints the JSON Schema.",
    ),
    "MTH-0122": Explanation(
        "no such data set",
        "The data set is named by a path that is no folder, or by a hub id that is none.",
        "Give an existing folder, hf:owner/name, or one of `mithridate list datasets`.",
    ),
    "MTH-0123": Explanation(
        "no such option",
        "An attack or a defense has no option of this name.",
        "The message names the closest one, or all of them.",
    ),
    "MTH-0124": Explanation(
        "the configuration file cannot be read",
        "It is larger than one megabyte, or not UTF-8 text.",
        "Check that it is the YAML file that you mean.",
    ),
    "MTH-0125": Explanation(
        "flags that exclude each other",
        "Two flags say different things, or one only makes sense beside another.",
        "Leave one of them out, or add what is missing; the message says which.",
    ),
    "MTH-0126": Explanation(
        "the file is there already",
        "`mithridate init` does not overwrite.",
        "Give another path, or --force.",
    ),
    "MTH-0127": Explanation(
        "not a poison pack",
        "There is nothing at this path, or no folder with a manifest.json.",
        "Give the folder of one pack; `mithridate craft` prints them.",
    ),
    "MTH-0128": Explanation(
        "the export needs the clean data",
        "The layout of the poisoning benchmark holds the target's image, which is in the data set and not in the pack.",
        "Add --data with the data set that the pack was crafted for.",
    ),
    # 02xx data and decoding
    "MTH-0200": Explanation(
        "damaged bytes",
        "A decoder failed on the content of a file that announces the right format.",
        "Fetch or write the file again; the message gives the decoder's reason.",
    ),
    "MTH-0201": Explanation(
        "another format",
        "The first bytes of the file are not those of the expected format.",
        "Check that the path is the right one and that the file was not renamed.",
    ),
    "MTH-0202": Explanation(
        "too large",
        "A file declares more bytes, pixels, entries or nesting than is accepted; it was refused unread.",
        "If the file is what it should be, split it or shrink it.",
    ),
    "MTH-0203": Explanation(
        "a column is missing",
        "The table has no column of this name.",
        "Name the columns `image` and `label`, or as the message says.",
    ),
    "MTH-0204": Explanation(
        "an unsupported kind",
        "The file is sound and holds something that is not read here: objects, animations, exotic types.",
        "Store numbers, text or single images.",
    ),
    "MTH-0205": Explanation(
        "sizes disagree",
        "A header declares another number of bytes than the file holds.",
        "The file is truncated or was edited: write it again.",
    ),
    "MTH-0206": Explanation(
        "ambiguous or impossible content",
        "A key is repeated or is no text, or a number is none that JSON has.",
        "Remove the repetition; write missing values as null.",
    ),
    "MTH-0207": Explanation(
        "the YAML is not accepted",
        "The text is no valid YAML, or uses aliases, anchors or tags, which are not read here.",
        "Correct the line that the message gives; write values out instead of aliasing them.",
    ),
    "MTH-0208": Explanation(
        "the file cannot be read",
        "There is nothing at the path, it is no regular file, or permission is missing.",
        "Check the path and its permissions.",
    ),
    "MTH-0240": Explanation(
        "row does not exist",
        "A row id is negative or not below the number of examples.",
        "Rows are numbered from 0; check which split, and which subset of it, the ids belong to.",
    ),
    "MTH-0241": Explanation(
        "columns differ in length",
        "Images, labels and the other columns of a data set must have one entry per example.",
        "Build every column from the same rows.",
    ),
    "MTH-0242": Explanation(
        "label out of range",
        "A label is negative, or names a class that the list of classes does not have.",
        "Number labels from 0 and give one class name for each.",
    ),
    "MTH-0243": Explanation(
        "overlay does not fit",
        "Replacement images have another shape or another count than the rows they replace, or a row is named twice.",
        "Give one uint8 image of the data set's shape for each row, and each row once.",
    ),
    "MTH-0250": Explanation(
        "unknown data set",
        "The source is no known name, and no folder, parquet or npz file of that name exists.",
        "Use digits, mnist, fashion-mnist or cifar10, a path, or hf:OWNER/NAME.",
    ),
    "MTH-0251": Explanation(
        "data set is not on this machine",
        "A named data set was found neither below $MITHRIDATE_DATA nor on the hub, or a path does not exist.",
        "Set MITHRIDATE_DATA to a folder with NAME/train.parquet and NAME/test.parquet, or use digits.",
    ),
    "MTH-0252": Explanation(
        "no images",
        "The folder has no images in class folders, or the file has no rows.",
        "Arrange images as DIR/CLASS/*.png, or DIR/train/CLASS/*.png with DIR/test/CLASS/*.png.",
    ),
    "MTH-0253": Explanation(
        "empty class",
        "A class has a name but no training image, so no model can learn it and every rate of it is undefined.",
        "Remove the class or add images to it.",
    ),
    "MTH-0254": Explanation(
        "images of different sizes",
        "All images of a data set must have the same height and width.",
        "Give a size, which crops and resizes every image when it is imported.",
    ),
    "MTH-0255": Explanation(
        "values are no pixels",
        "Pixels are NaN or infinite, or outside [0, 1] (floating point) or [0, 255] (whole numbers).",
        "Repair the images, divide by 255, or undo the normalisation.",
    ),
    "MTH-0256": Explanation(
        "columns or arrays not recognised",
        "A file has no image or no label column under the usual names, or it holds something else.",
        "Name the columns image and label; images are encoded bytes or arrays, labels whole numbers or strings.",
    ),
    "MTH-0257": Explanation(
        "loading option out of range",
        "size or per_class is outside its range.",
        "Choose a value inside the range that the message names.",
    ),
    "MTH-0258": Explanation(
        "hub data set not available",
        "The id is malformed, the extra is not installed, or the hub does not have the data set or does not answer.",
        'pip install "mithridate[hub]", and write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.',
    ),
    "MTH-0260": Explanation(
        "training and test split disagree",
        "The splits have different classes, or only the test split has colour.",
        "Give both splits the same classes, in the same order, and the same kind of images.",
    ),
    "MTH-0261": Explanation(
        "file cannot be read",
        "The operating system refused to open a file of the data set.",
        "Check that it exists and its permissions.",
    ),
    "MTH-0262": Explanation(
        "data set does not fit into memory",
        "A resident data set holds all pixels in memory, and this machine has too little.",
        "Set data.store to mapped (--store mapped of audit, craft and train), which keeps encoded images on disk; or "
        "choose a smaller size, or fewer images.",
    ),
    "MTH-0263": Explanation(
        "imported data are damaged",
        "A file of the cache does not hold what was imported, or an image decoder was changed since.",
        "Delete the folder that the message names; the next run imports the data again.",
    ),
    # 03xx packs and scenarios
    "MTH-0301": Explanation(
        "poison pack for other data",
        "The fingerprint of the training split is not the one that the pack was made for: another data set, another "
        "subset of it, another order, or other labels or class names.",
        "Load the data set with the options that the pack's manifest names, or craft a new pack for this one.",
    ),
    "MTH-0302": Explanation(
        "class smaller than the budget",
        "The budget is a fraction of the whole training split, and the class that the threat model takes the poisons "
        "from has fewer rows than that.",
        "Lower the budget to at most what the message says, choose other scenarios, or threat model 'random-subset'.",
    ),
    "MTH-0303": Explanation(
        "target already of the adversarial class",
        "The attacker wants the target to be seen as what it is.",
        "Choose another target or another adversarial class.",
    ),
    "MTH-0304": Explanation(
        "row named twice",
        "A scenario names one row more than once; a row can be poisoned, and a target counted, only once.",
        "Name each row once; the number of distinct rows is what counts for the budget.",
    ),
    "MTH-0305": Explanation(
        "row or class does not exist in this data set",
        "A scenario names a row beyond the end of its split, a negative row, or a class that does not exist.",
        "Use the data set that the scenario was made for; targets are test rows, poisons training rows, from 0.",
    ),
    "MTH-0306": Explanation(
        "unknown scenario",
        "There is no scenario source, or no scenario in the list, of this name.",
        "Write random, the name of a shipped list, or LIST:KEY.",
    ),
    "MTH-0307": Explanation(
        "scenario list for another data set",
        "The list names rows of one published data set in its original order; sizes, labels or order differ here.",
        "Use that data set in its original order, or the scenario source 'random', which fits every data set.",
    ),
    "MTH-0308": Explanation(
        "impossible number of scenarios",
        "Fewer than one scenario, more than the list or the test split has, another number than one where LIST:KEY "
        "names a single one, or none said where the source has no end.",
        "Ask for a number within the range that the message names.",
    ),
    "MTH-0309": Explanation(
        "scenario contradicts itself or the data",
        "A target is not of the stated class, a poison is of a class that the threat model excludes, or a field is "
        "absent or of another type.",
        "Correct the field that the message names; labels are those of the clean data set.",
    ),
    "MTH-0310": Explanation(
        "threat model does not exist or does not apply",
        "The threat model is unknown, needs more classes than there are, or a target where a trigger takes its place.",
        "Use single-class, third-party (needs three classes), self-betrayal, other-classes or random-subset; with a "
        "trigger, one of other-classes, random-subset and single-class.",
    ),
    "MTH-0320": Explanation(
        "poisons of another shape or type",
        "Poisons are uint8 images of the training split's shape, one for each poison id, with whole-number labels.",
        "Round them into the epsilon ball with numerics.ball.quantise, and check their number and shape.",
    ),
    "MTH-0321": Explanation(
        "poisons exceed epsilon",
        "A pixel, as exported to 8 bits, differs from the base image by more than the scenario allows.",
        "Round with numerics.ball.quantise, which clamps in whole steps of 1/255, or state a larger epsilon.",
    ),
    "MTH-0322": Explanation(
        "no poison pack",
        "A file does not hold what a poison pack, or an export of one, must hold; it may come from another version.",
        "Check the path and the format; `mithridate craft` and export write what can be read.",
    ),
    "MTH-0323": Explanation(
        "poison pack altered",
        "The poisons, the claims and their digests do not belong together: something was changed after crafting.",
        "Fetch the pack again from where it was made; do not use this one.",
    ),
    "MTH-0324": Explanation(
        "format does not exist or does not suit",
        "The export or import format is unknown, or cannot hold this pack.",
        "Use png, parquet or npz; benchmark is for export, with the data set, and holds one target.",
    ),
    "MTH-0325": Explanation(
        "scenario of an import absent or another one",
        "Poisons made by another program do not say what they are for; those made by this one do.",
        "Give the scenario for the former, and leave it out for the latter.",
    ),
    "MTH-0326": Explanation(
        "value does not fit into a manifest",
        "A manifest holds numbers, texts, truth values, lists and mappings.",
        "Turn the value that the message names into one of these.",
    ),
    "MTH-0327": Explanation(
        "export path is taken",
        "There is a file at the path already.",
        "Choose another path, or allow overwriting.",
    ),
    "MTH-0330": Explanation(
        "impossible trigger",
        "Mask and pattern of a trigger do not fit each other, or a value of them is not in [0, 1].",
        "Give one mask of the pattern's size, or one for each channel, and pixels in [0, 1] before any normalisation.",
    ),
    "MTH-0331": Explanation(
        "trigger for images of another shape",
        "A trigger has the channels, rows and columns of the images that it is stamped on.",
        "Make the trigger for images of this shape; a PNG image that is smaller is placed in a corner.",
    ),
    "MTH-0332": Explanation(
        "no trigger",
        "A file does not hold the mask and the pattern of a trigger, or a pack that needs one has none.",
        "Fetch the file again from where it was made, or craft the pack again.",
    ),
    "MTH-0333": Explanation(
        "trigger does not fit into a PNG image",
        "A PNG image has one opacity for all of its 1 or 3 channels.",
        "Keep the trigger in a poison pack, or use one mask for all channels.",
    ),
    "MTH-0334": Explanation(
        "trigger does not fit into the images",
        "A patch is at least one pixel large, not larger than the images, and lies in one of their corners.",
        "Choose a smaller patch and one of the corners that the message names.",
    ),
    "MTH-0335": Explanation(
        "attack and scenario are of different kinds",
        "A trigger attack wants every image with its trigger to be mistaken, and needs a scenario of the source "
        "'trigger'; a targeted attack wants certain test images to be mistaken, and needs targets.",
        "Use the scenario source 'trigger' for attacks with a trigger, 'random' or a published list for the others, "
        "and audit the two kinds separately.",
    ),
    # 04xx models
    "MTH-0401": Explanation(
        "unknown model",
        "The name is no built-in architecture, and has none of the other forms.",
        "Write a name that `mithridate list models` shows, perhaps with a width (resnet18-w16), or timm:NAME, "
        "torchvision:NAME, hf:ID, package.module:factory, or FILE.py:factory.",
    ),
    "MTH-0402": Explanation(
        "impossible width",
        "The suffix -wN asks for a width that is out of range, or of an architecture that has one width only.",
        "Choose a width between 1 and 4096, or leave the suffix out.",
    ),
    "MTH-0403": Explanation(
        "a library for the model is missing or broken",
        "Models of timm, torchvision and the Hugging Face hub need packages that are no part of the core, and "
        "torchvision imports only beside the build of torch that it was made for.",
        "Install what the message names; built-in models and your own code need none of them.",
    ),
    "MTH-0404": Explanation(
        "no such file, module or network",
        "The form of the model name is right, but what it points to does not exist.",
        "Check the path or the spelling; modules are searched in the current folder first, then where Python looks.",
    ),
    "MTH-0405": Explanation(
        "impossible model specification",
        "Classes, channels, image size, or the channel statistics are out of range or do not fit together.",
        "Give 2 classes or more, images of 8 pixels or more, and one mean and one positive deviation per channel.",
    ),
    "MTH-0406": Explanation(
        "no such factory",
        "The file or module was executed, and the name after the colon is not in it or is nothing that can be called.",
        "Define a function or a class of that name that returns the network.",
    ),
    "MTH-0407": Explanation(
        "the model's own code failed",
        "Code that belongs to a library or to you raised an error while it was imported, built or run once on two "
        "black images.",
        "Read the message and the line that it names; try the factory in a Python shell. Ids of the hub need a network "
        "and must be image classifiers with safetensors weights.",
    ),
    "MTH-0408": Explanation(
        "the factory breaks its contract",
        "A factory is called with those of num_classes, channels and size that it takes by name, needs nothing else, "
        "and returns a new torch.nn.Module at every call.",
        "Give other parameters defaults, and build the network inside the factory.",
    ),
    "MTH-0409": Explanation(
        "the model does not return logits",
        "Two black images went in, in evaluation and in training mode, and no tensor of two rows with one logit for "
        "each class came out.",
        "End the network in num_classes outputs; return the logits alone, also in training mode.",
    ),
    "MTH-0410": Explanation(
        "no penultimate features",
        "Only the built-in architectures say which activations are their features.",
        "Use a built-in model where features are needed.",
    ),
    "MTH-0411": Explanation(
        "weights of another model",
        "A weights file holds other tensors than the model: other names, shapes or number types.",
        "Build the model that the file was saved from: the same name, width, number of classes, channels and size.",
    ),
    # 05xx training
    "MTH-0501": Explanation(
        "too few rows for the rule",
        "An aggregation rule needs some number of rows (Krum: 2f + 3), and a batch has fewer workers or examples.",
        "Lower f, add workers, raise the batch, or leave out the last, smaller batch of an epoch (drop_last).",
    ),
    "MTH-0502": Explanation(
        "examples are coupled",
        "A rule needs one gradient per example. Batch normalisation and losses over pairs mix the examples of a batch, "
        "and dropout draws anew in each pass, so that no such gradient exists.",
        "Use a model without batch normalisation and dropout, or workers as rows: Rows(of='worker', count=n).",
    ),
    "MTH-0503": Explanation(
        "two views of one name",
        "Randomness is addressed by the name of the view, so two views of one name would draw the same numbers.",
        "Give the second view a class of its own with another name.",
    ),
    "MTH-0504": Explanation(
        "more workers than examples",
        "The smallest batch of an epoch has fewer examples than there are workers.",
        "Raise the batch, lower the number of workers, or leave out the last batch (drop_last).",
    ),
    "MTH-0505": Explanation(
        "a view begins before the first epoch",
        "The epoch from which a view is used is negative.",
        "Epochs count from 0.",
    ),
    "MTH-0506": Explanation(
        "pretrained weights do not fit",
        "A tensor of the weights file has another shape than in the model, or the model has no tensor of that name.",
        "Use weights of the same architecture, width, number of classes and image size.",
    ),
    "MTH-0507": Explanation(
        "no head to train",
        "Training the head alone needs a linear layer, and the network has none.",
        "Use a network that ends in a linear layer, or train all of it.",
    ),
    "MTH-0508": Explanation(
        "a transfer recipe without weights",
        "The recipe trains a new head on a pretrained network, and no weights were given.",
        "Set recipe_options.pretrained to a safetensors file; `mithridate train` writes one.",
    ),
    "MTH-0509": Explanation(
        "a checkpoint of another run",
        "The checkpoint was written with another seed, data set, model or recipe than the plan has that continues it.",
        "Continue it with the configuration that wrote it, or begin in a new folder.",
    ),
    "MTH-0510": Explanation(
        "training diverged",
        "The mean loss of an epoch is not a finite number, so the network says nothing about poisons.",
        "Lower recipe_options.lr, or choose a recipe with a smaller step size; networks without norms need one.",
    ),
    "MTH-0550": Explanation(
        "the adversary needs the aggregation rule",
        "An optimised adversary searches for the strength that hurts the rule most, and was given no rule.",
        "Pass the rule, or choose an adversary of fixed strength such as alie or ipm.",
    ),
    "MTH-0551": Explanation(
        "too many hostile workers for this adversary",
        "The adversary is defined for a hostile minority: its strength follows from how many honest rows there are.",
        "Lower f, add workers, or set the strength yourself.",
    ),
    "MTH-0552": Explanation(
        "there is no such honest worker",
        "An adversary that copies one honest worker was told to copy one that does not exist.",
        "Honest workers are numbered from 0 to n - f - 1; lower the number or leave it out.",
    ),
    "MTH-0520": Explanation(
        "no rows",
        "An aggregation rule was called without any row.",
        "Wait for at least one reply, or check why the list is empty.",
    ),
    "MTH-0521": Explanation(
        "rows without coordinates",
        "The rows have no elements, so there is nothing to combine.",
        "Check which parameters are collected.",
    ),
    "MTH-0522": Explanation(
        "rows do not fit together",
        "All rows have the same shape, type, device and, as dicts, names; one tensor of rows has two dimensions.",
        "Collect them from the same model, and convert them to one type on one device.",
    ),
    "MTH-0523": Explanation(
        "rows are no floating-point numbers",
        "Aggregation rules work on float16, bfloat16, float32 and float64.",
        "Leave integer buffers out, or convert them.",
    ),
    "MTH-0524": Explanation(
        "too many rows are not finite",
        "Rows with NaN or infinity count as lying rows, and there are more of them than the rule was told to expect.",
        "Look at the rows that the message names; raise f, or leave them out with on_nonfinite='exclude'.",
    ),
    "MTH-0525": Explanation(
        "a buffer or a state does not fit the rows",
        "A buffer has the result's shape, type and device and shares no memory with the rows; a state is a finite row.",
        "Allocate it like one row, or leave it out.",
    ),
    "MTH-0526": Explanation(
        "options beside a rule object",
        "A rule that is given as an object has its own f and options.",
        "Set them in the object, or give the rule by its name.",
    ),
    "MTH-0553": Explanation(
        "fewer examples than workers",
        "The data are split among simulated workers, and some would have nothing to draw from.",
        "Lower the number of workers or use more data.",
    ),
    "MTH-0554": Explanation(
        "a map of workers was given rows of examples",
        "Worker momentum and hostile workers need rows that stay the same workers from step to step.",
        'Use Rows(of="worker", count=n).',
    ),
    "MTH-0555": Explanation(
        "draw and rows disagree about the number of workers",
        "A draw of one batch per worker and the rows that are made of it count different workers.",
        "Give PerWorker(workers=n) and Rows(count=n) the same n.",
    ),
    "MTH-0556": Explanation(
        "nobody is honest",
        "As many workers are declared hostile as there are, or more.",
        "Lower f or add workers; robust rules need an honest majority and more.",
    ),
    "MTH-0540": Explanation(
        "more rows to average than the rule may",
        "Multi-Krum averages m of n rows, of which f may lie; more than n - f of them are sure to include a liar.",
        "Lower m, or leave it out: n - f - 2 is the value of the theory.",
    ),
    "MTH-0541": Explanation(
        "too many subsets",
        "SMEA searches for the best subset of n - f rows. Bounds cut the search short where rows differ in spread; "
        "where they do not, all n! / (f! (n - f)!) subsets have to be looked at.",
        "Raise `limit` and wait, lower f, or use mda (fast and exact) or caf.",
    ),
    "MTH-0542": Explanation(
        "no usable pivot",
        "MoNNA averages the rows nearest to one's own row, the pivot; its index is no row's, or the row is not finite.",
        "Give the place of your own row among the rows; look for an overflow in the local step if it is not finite.",
    ),
    "MTH-0543": Explanation(
        "every row would be thrown out",
        "DnC throws out c times f rows in every draw of coordinates, and there are no more rows than that.",
        "Lower the factor c to 1, lower f, or add workers.",
    ),
    "MTH-0544": Explanation(
        "buckets without an honest majority",
        "Bucketing averages s rows each; one liar taints a whole bucket, and f of the ceil(n / s) buckets must stay a "
        "minority.",
        "Use smaller buckets (s), lower f, or add workers.",
    ),
    "MTH-0557": Explanation(
        "the plan has rows or a rule of its own",
        "A defense that simulates workers and combines them cannot be stacked on a step that does so already.",
        "Defend a plan whose steps combine by the plain mean; use one such defense.",
    ),
    "MTH-0558": Explanation(
        "this adversary has no strength",
        "A strength was given for a row adversary that has no parameter of that kind, such as nan or opt-alie.",
        "Leave the strength out, or choose an adversary of fixed strength.",
    ),
    "MTH-0560": Explanation(
        "the folder is in use for something else",
        "The folder for the results exists, is not empty, and holds no earlier run of this kind.",
        "Give a new or an empty folder with --out. A run goes on in the folder that it was begun in.",
    ),
    "MTH-0561": Explanation(
        "nothing to craft",
        "The attack `none` is the control that changes nothing, so there is no poison pack of it.",
        "Name an attack of `mithridate list attacks`; `noise` makes the packs of the other control.",
    ),
    "MTH-0562": Explanation(
        "no such device here",
        "The device is well-formed, and torch does not find it on this machine.",
        "`mithridate doctor` lists the devices; install a torch that was built for the accelerator, or use cpu.",
    ),
    # 06xx attacks and defenses
    "MTH-0601": Explanation(
        "wrong number of surrogates",
        "Gradient matching needs as many clean-trained networks as num_surrogates says.",
        "Train that many surrogates on the clean data, or change num_surrogates.",
    ),
    "MTH-0602": Explanation(
        "form of the derivative not supported",
        "An operation of the network has no forward-mode rule, so that only double backward works.",
        "Leave the option form at auto, which finds what works.",
    ),
    "MTH-0603": Explanation(
        "no gradient at the target",
        "The adversarial loss of the target has a gradient that is zero or not finite, so there is nothing to match.",
        "Check that the surrogate returns finite logits; with criterion cw, use cross-entropy.",
    ),
    "MTH-0604": Explanation(
        "no gradient of the poisons",
        "The matching loss is not finite: the surrogate's loss at the poisons has no gradient, or its logits overflow.",
        "Check the surrogate on the clean images, lower step_size, and use precision fp32.",
    ),
    "MTH-0650": Explanation(
        "friendly noise would never begin",
        "The noise is generated after a number of epochs (5 from scratch), and training ends before.",
        "Lower begin_epoch, train longer, or use the random noise alone (components: random).",
    ),
    # 07xx runs, ledgers and audits
    "MTH-0701": Explanation(
        "something is there already",
        "The path exists, and nothing is overwritten unless asked.",
        "Choose another name, or remove what is there.",
    ),
    "MTH-0702": Explanation(
        "no artefact of this kind",
        "The folder has no manifest, or one of another kind.",
        "Check the path; `mithridate craft` and `mithridate train` print the folders that they write.",
    ),
    "MTH-0703": Explanation(
        "the manifest is damaged",
        "manifest.json is no JSON of the expected form.",
        "Get a fresh copy of the whole folder.",
    ),
    "MTH-0704": Explanation(
        "a newer schema",
        "The folder was written by a newer version.",
        "Update mithridate.",
    ),
    "MTH-0705": Explanation(
        "the manifest was altered",
        "The seal of manifest.json does not match its content.",
        "Get a fresh copy; do not edit manifests by hand.",
    ),
    "MTH-0706": Explanation(
        "the disk refused",
        "Writing failed: the disk is full, read-only, or permission is missing. What was there before is unharmed.",
        "Free space or choose another folder, then run the same command again.",
    ),
    "MTH-0707": Explanation(
        "an unlisted file",
        "The folder holds a file that its manifest does not list.",
        "Remove the file, or get a fresh copy.",
    ),
    "MTH-0708": Explanation(
        "a file is missing",
        "The manifest lists a file that is not there or cannot be read.",
        "Get a fresh copy of the whole folder.",
    ),
    "MTH-0709": Explanation(
        "a file was altered",
        "The sha256 of a file is not the one in the manifest.",
        "Get a fresh copy of the whole folder.",
    ),
    "MTH-0710": Explanation(
        "another process works there",
        "The run folder's ledger is locked by a living process.",
        "Wait for it or end it; the same command then goes on.",
    ),
    "MTH-0711": Explanation(
        "the ledger is not open",
        "A record was written to a ledger that is closed, or it was opened twice. This is an error of the program.",
        "Report it with the command that shows it.",
    ),
    "MTH-0712": Explanation(
        "a record is there already",
        "Each finished piece of work is written once. This is an error of the program.",
        "Report it with the command that shows it.",
    ),
    "MTH-0713": Explanation(
        "the ledger is damaged",
        "A line before the last one is not whole; only a torn last line is expected after a crash.",
        "Restore ledger.jsonl from a copy, or begin with a new folder.",
    ),
    "MTH-0714": Explanation(
        "a ledger of another version",
        "The ledger's first line names a schema that this version does not read.",
        "Use the version that wrote it, or begin with a new folder.",
    ),
    "MTH-0715": Explanation(
        "a record that JSON does not have",
        "A result holds a value that is no JSON. This is an error of the program.",
        "Report it with the command that shows it.",
    ),
    "MTH-0720": Explanation(
        "the folder holds another audit",
        "A run folder belongs to one configuration, and the one in it differs.",
        "Choose another folder with --out, or remove this one.",
    ),
    "MTH-0721": Explanation(
        "too few surrogates",
        "The attacks need more clean networks than surrogate.models names.",
        "Name as many models as num_surrogates, or none.",
    ),
    "MTH-0722": Explanation(
        "a run that cannot be reused",
        "--reuse takes results over from a finished audit that differs from the new one in attacks, defenses, victims, "
        "gate and the number of targets only, and that the same versions made.",
        "Name such a run, or leave --reuse out.",
    ),
    "MTH-0723": Explanation(
        "a reused run was changed",
        "A file of the run that --reuse names is not the one that the run wrote.",
        "Leave --reuse out, or restore the files.",
    ),
    "MTH-0731": Explanation(
        "impossible counts",
        "A rate needs at least one trial and no more successes than trials.",
        "Check the counts that the message gives.",
    ),
    "MTH-0732": Explanation(
        "impossible confidence",
        "The confidence of an interval lies in (0, 1).",
        "Use 0.95 unless there is a reason.",
    ),
    "MTH-0733": Explanation(
        "the gate is not understood",
        "A gate is METRIC, a comparison and a number: asr, clean_accuracy or accuracy_drop; < <= > or >=.",
        'Write for example --gate "asr<0.1".',
    ),
    "MTH-0780": Explanation(
        "not a run folder",
        "The folder has no ledger.jsonl, so no run was started in it.",
        "`mithridate audit` prints the folder of its run; the default is below mithridate-runs.",
    ),
    # 08xx reports
    "MTH-0801": Explanation(
        "The report document is not valid",
        "report.json lacks a field, has one too many, or holds a value that cannot be (a rate outside [0, 1], counts "
        "that do not give the rate beside them, a picture that is not a PNG). The message names the first fields.",
        "Run the audit again in the same folder: finished cells are kept and report.json is written anew. A document "
        "written by hand must follow the schema mithridate.report/1.",
    ),
    "MTH-0802": Explanation(
        "The report was written for another schema",
        "The field `schema` names a version of the document that this version of mithridate does not read.",
        "Render the report with the version that wrote it, or run the audit again with this one.",
    ),
    "MTH-0803": Explanation(
        "The report does not fit its size limit",
        "A page is at most one megabyte. Pictures and rows are left out until it fits; here the texts alone exceed it.",
        "Shorten the longest texts of report.json: reasons, departures, values of the setting.",
    ),
    "MTH-0804": Explanation(
        "These pixels are not a picture",
        "A picture of the report is uint8 with 1 or 3 channels, and a clean image and its poison have equal shape.",
        "Pass [c, h, w], or [h, w, c] with layout='hwc'; for other numbers of channels choose three of them.",
    ),
    "MTH-0820": Explanation(
        "nothing to heal with",
        "A healer needs at least one suspect, which shows the behaviour that is to go, and at least one example of "
        "reference data, which shows what is to stay.",
        "`mithridate scan` finds suspects. A hundred images without labels are enough as reference.",
    ),
    "MTH-0821": Explanation(
        "images that do not fit",
        "Suspects, reference and guard must have images of one shape: uint8, or floats in [0, 1], as (n, c, h, w).",
        "Give all of them at the model's size and before normalisation: models of this library normalise inside.",
    ),
    "MTH-0822": Explanation(
        "a guard or a rate that cannot be",
        "Budgets and rates are shares in [0, 1], and a guard watches at least one example.",
        "Use the values that the message names; `guard=None` heals without a guard.",
    ),
    "MTH-0823": Explanation(
        "no labels where labels are needed",
        "The method measures importance or trains by the labels of the reference, and the reference has none.",
        "Give labels, or choose a method that needs none: xlf, lfssd, jit.",
    ),
    "MTH-0824": Explanation(
        "an undo file of another model",
        "The file replaces values by those from before the healing. This model does not hold the values that the "
        "healing wrote. Nothing was changed.",
        "Apply it to the healed model as it was saved, and only once.",
    ),
    "MTH-0825": Explanation(
        "not an undo file",
        "The file lacks the seal or a half of a pair of indices and values.",
        "A healer writes undo.safetensors beside its model; give that one.",
    ),
    "MTH-0826": Explanation(
        "weights or importances that are not finite",
        "A tensor of the model, or the importance of one of its layers, holds NaN or infinity; the message names it.",
        "Train or load the model again. If only the importance overflows, the layer's gradients do: check its scale.",
    ),
    "MTH-0827": Explanation(
        "the model does not take these images",
        "The model failed on two of the images, or what it returned are not logits (one row an image).",
        "Give the data that the model was trained on, at its size, with as many channels.",
    ),
    "MTH-0828": Explanation(
        "labels that the model does not know",
        "A label is not below the number of the model's logits.",
        "Number the labels as when the model was trained.",
    ),
    "MTH-0829": Explanation(
        "options beside a healer that is an object",
        "Options are fields of a healer that is given by name; an object has its own.",
        "Set them in the object, or give the healer by name.",
    ),
    "MTH-0830": Explanation(
        "no samples to measure importance on",
        "The importance of a parameter is a mean over samples.",
        "Give at least one sample.",
    ),
    "MTH-0831": Explanation(
        "samples that cannot be told apart",
        "The network fails on a single sample, so it has no gradient for one: most often a BatchNorm without running "
        "statistics, which normalises by the batch.",
        "Use a network with running statistics, or importance_batch, which takes gradients of whole batches.",
    ),
    "MTH-0832": Explanation(
        "every parameter is frozen",
        "Importance is made of gradients, and parameters whose requires_grad is false have none; they are left alone.",
        "Thaw what may be changed: `model.requires_grad_(True)`.",
    ),
    # 084x healers that train
    "MTH-0840": Explanation(
        "how the model was trained is not known",
        "The method trains again as it was done the first time, and no plan of that training was given.",
        "Name the recipe with --recipe, or give `training=`, its plan with the data; or choose fine-tune, or xlf, "
        "which "
        "need none. Models that `mithridate train` has saved say it themselves.",
    ),
    "MTH-0841": Explanation(
        "no batch normalisation",
        "The method works on the weights of batch normalisation, and the model has none.",
        "Choose fine-pruning, nad, i-bau, or xlf, which need none.",
    ),
    "MTH-0842": Explanation(
        "no convolution",
        "The method works on the channels of convolutions, and the model has none.",
        "Choose fine-tune, i-bau, or xlf, which need none.",
    ),
    "MTH-0843": Explanation(
        "a healer's training diverged",
        "The loss is no longer finite: the step is too large for this network.",
        "Lower `lr`, or raise `batch`.",
    ),
    "MTH-0844": Explanation(
        "nothing is left to train on",
        "Without the suspects, or with the poison isolated, too few examples remain.",
        "Give more data, or fewer suspects.",
    ),
    "MTH-0845": Explanation(
        "fewer layers than asked for",
        "The last k layers are to be trained, and the model has fewer than k with weights.",
        "Lower `layers`, or leave it out.",
    ),
    "MTH-0846": Explanation(
        "the plan builds another network",
        "The plan of the training and the model that is to be healed have tensors of other names or shapes.",
        "Give the plan with which this model was trained.",
    ),
    "MTH-0847": Explanation(
        "too few classes for an anomaly",
        "A trigger is told by being smaller than those of the other classes, and there are fewer than three of them.",
        "Reconstruct the trigger for the class in question with `reconstruct(..., classes=[k])`.",
    ),
    # 086x detection
    "MTH-0860": Explanation(
        "nothing to scan",
        "The set of examples is empty.",
        "Give the training data of the model.",
    ),
    "MTH-0861": Explanation(
        "no features",
        "Detectors look at the input of the linear layer that makes the logits; in this network the output comes from "
        "something else.",
        "Wrap the network so that it returns the output of its last nn.Linear, one row for each image.",
    ),
    "MTH-0862": Explanation(
        "features that are not finite",
        "The network gives NaN or infinity for some images: broken weights, or numbers that overflow.",
        "Load another checkpoint. The message names the layer and the rows.",
    ),
    "MTH-0863": Explanation(
        "the model has fewer classes than the data",
        "A label of the data has no logit in the model's output.",
        "Scan the data that the model was trained on.",
    ),
    "MTH-0864": Explanation(
        "no detectors, or one twice",
        "A scan needs at least one detector, and each of them once.",
        "Leave the detectors out to run the default ones; `mithridate list detectors` names all.",
    ),
    "MTH-0866": Explanation(
        "a score that is no number",
        "A detector returned NaN or infinity.",
        "Leave that detector out, and report this with the data that it happened on.",
    ),
    "MTH-0867": Explanation(
        "no table of suspects",
        "The parquet file was not written by a scan, was altered, or contradicts itself.",
        "Make it again with `mithridate scan`.",
    ),
    "MTH-0868": Explanation(
        "one class only",
        "A poisoned class is found by comparing it with the others, and here are no others.",
        "Scan the whole training set.",
    ),
    "MTH-0869": Explanation(
        "the suspects belong to other data",
        "Row ids mean nothing in other data: the fingerprint in the table is not that of the data at hand.",
        "Use the data that were scanned, in the same order, or scan again.",
    ),
    "MTH-0870": Explanation(
        "no list of suspected rows",
        "A list of suspects holds the id of a row of the training data on each line, and at least one.",
        "Count rows from 0, as `mithridate scan` shows them, in the same data and with the same --per-class.",
    ),
    "MTH-0880": Explanation(
        "no finished report",
        "The run has no report.json yet, or the path is no run.",
        "`mithridate status RUN` says how far it is; the command that started it finishes it.",
    ),
    "MTH-0881": Explanation(
        "no weights",
        "The path holds no model: `mithridate train` writes a folder with model.safetensors and model.json.",
        "Give such a folder, or a safetensors file together with --model NAME.",
    ),
    "MTH-0882": Explanation(
        "weights without a description",
        "A safetensors file holds numbers and not the network that they belong to.",
        "Name the network with --model, as for `mithridate train`.",
    ),
    "MTH-0883": Explanation(
        "no description of a model",
        "The model.json beside the weights is damaged, was written by another version, or contradicts itself.",
        "Take the folder as `mithridate train` wrote it, or remove model.json and give --model NAME.",
    ),
    "MTH-0884": Explanation(
        "a description that would execute code",
        "The model.json names a file, a module or a hub id. A file that came with weights is not trusted so far.",
        "Name the network yourself with --model, if you trust its code.",
    ),
    "MTH-0885": Explanation(
        "model and data do not fit",
        "The data have another shape or another number of classes than the model was built for.",
        "Give the data that the model was trained on, with the same --size.",
    ),
    "MTH-0887": Explanation(
        "no such class",
        "The target class is a name or a number of a class of the data.",
        "Take one of the classes that the message lists.",
    ),
    "MTH-0888": Explanation(
        "before and after are different networks",
        "Healing changes weights and never the network, so the two cannot be compared.",
        "Give the model that was healed, and what `mithridate heal` wrote.",
    ),
    # 09xx environment, nodes and messages
    "MTH-0900": Explanation(
        "These bytes are no frame",
        "What a node sent is cut off, damaged, or written by something else: magic, version, lengths or checksum are "
        "wrong. Such frames are dropped and counted for the peer; they stop nobody else.",
        "If an honest node sends them, check that all nodes run the same version.",
    ),
    "MTH-0901": Explanation(
        "A frame that nobody expects",
        "A frame has a kind, a type or a number of entries that the protocol does not have. It was refused before "
        "memory was taken for it.",
        "If an honest node sends them, compare the model and the protocol of its cluster file with ours.",
    ),
    "MTH-0903": Explanation(
        "A frame in another node's name",
        "The header names another sender than the certificate of the connection. The certificate is believed, so the "
        "frame was dropped.",
        "If the node is honest, its id in the cluster file and in its certificate differ: make new keys.",
    ),
    "MTH-0904": Explanation(
        "A frame, a schema or a buffer that cannot be",
        "A kind, a type, a shape, a round or a buffer size is outside what the frames can hold.",
        "Use the values that the message lists.",
    ),
    "MTH-0910": Explanation(
        "Quorum lost",
        "Fewer nodes than the quorum needs answered before the deadline: they are dead, cut off, too slow, or silent. "
        "The message names who is missing.",
        "Start the missing nodes and run the same command again: it goes on from the saved state. If they are slow, "
        "raise the deadline; if they are gone for good, lower the quorum as far as the declared number of Byzantine "
        "nodes allows.",
    ),
    "MTH-0911": Explanation(
        "A quorum that can never be reached",
        "More frames are waited for than there are nodes to send them.",
        "Lower the quorum: with f Byzantine nodes among n, it is at most n - f.",
    ),
    "MTH-0912": Explanation(
        "A simulation that does not end",
        "Every simulated node waits and no message is on its way, or more virtual time passed than was allowed.",
        "Give what waits a deadline, or raise the limit.",
    ),
    "MTH-0913": Explanation(
        "A simulated node that is not there",
        "A crash or the end of the simulation names a node without a program.",
        "Name one of the nodes that the message lists.",
    ),
    "MTH-0914": Explanation(
        "A broadcast layer that its transport cannot carry",
        "The layer is unknown, or the schema of the transport does not read the frames that the layer sends.",
        "Build the schema with `layers=LAYERS_OF[name]`, and with `witness_kind(kind)` where vectors are witnessed.",
    ),
    "MTH-0915": Explanation(
        "Too many Byzantine nodes for this broadcast",
        "Consistent and reliable broadcast need n >= 3 f + 1 nodes, so that any two quorums share an honest one.",
        "Add nodes, or declare fewer of them Byzantine.",
    ),
    "MTH-0920": Explanation(
        "A file of keys that is none",
        "A certificate or a private key of the cluster is damaged or of another kind.",
        "Make the keys anew with `mithridate byzantine keys`, or copy the file again.",
    ),
    "MTH-0921": Explanation(
        "A certificate that does not match the cluster file",
        "The cluster file pins each node's certificate by its sha256. The one in the folder of keys is another one, is "
        "for another node, or does not belong to the private key.",
        "Copy the keys that were made together with this cluster file; if the certificate was renewed on purpose, "
        "write its fingerprint into the cluster file of every node.",
    ),
    "MTH-0922": Explanation(
        "A certificate that is not valid today",
        "Certificates have a first and a last day.",
        "Make new keys with `mithridate byzantine keys`, or correct the clock of this machine.",
    ),
    "MTH-0923": Explanation(
        "A private key that others may read",
        "Who can read a node's key can speak in its name; keys must be readable by their owner alone.",
        "`chmod 600` the file; if others may have read it, make new keys.",
    ),
    "MTH-0924": Explanation(
        "Keys are not made there",
        "The folder has the keys of a cluster already, which are never overwritten, or there are no nodes to make keys "
        "for.",
        "Name another folder, or delete the old keys first.",
    ),
    "MTH-0925": Explanation(
        "An address that other machines can reach",
        "A node listens on the loopback interface unless it is told to be reachable.",
        "Allow it explicitly for a cluster of several machines; only nodes of the cluster file are let in.",
    ),
    "MTH-0926": Explanation(
        "The address cannot be listened on",
        "The port is taken, needs privileges, or the address is none of this machine.",
        "Choose another port in the cluster file; `mithridate byzantine local` takes free ones by itself.",
    ),
    # 095x clusters of nodes
    "MTH-0950": Explanation(
        "the nodes do not make up a cluster",
        "A protocol has certain roles: ssmw one server and workers, msmw several servers and workers, p2p peers only. "
        "Every node has its own id and its own address, and a baseline variant has the mean and no other rule.",
        "Change the roles, the protocol or the variant in the cluster file.",
    ),
    "MTH-0951": Explanation(
        "impossible n, f or quorum",
        "Of n nodes f may lie or be down, and f of them may never answer: a quorum lies in [1, n - f].",
        "Lower f or the quorum, or start more nodes.",
    ),
    "MTH-0952": Explanation(
        "the rule needs more rows",
        "A rule is given as many rows as replies are waited for, and all f liars may be among them. Median, trimmed "
        "mean, MDA and their like need 2f + 1 rows, Krum and Multi-Krum 2f + 3, Bulyan and Multi-Bulyan 4f + 3.",
        "Lower f, start more nodes, or choose a rule that needs fewer rows.",
    ),
    "MTH-0953": Explanation(
        "too few servers",
        "The median of the servers' models bears f liars among n servers if n >= 3f + 2 and 2f + 2 <= q <= n - f; the "
        "first version of the protocol (guanyu) needs n >= 3f + 3 and 2f + 3 <= q <= n - f.",
        "Lower servers.f, or start more servers.",
    ),
    "MTH-0954": Explanation(
        "too few workers",
        "f lying workers of n are borne if n >= 3f + 1 and 2f + 1 <= q <= n - f; guanyu needs n >= 3f + 3 and "
        "2f + 3 <= q <= n - f.",
        "Lower workers.f, or start more workers.",
    ),
    "MTH-0955": Explanation(
        "too few peers for this agreement",
        "Averaging agreement among n peers bears f liars if n >= 6f + 1 (mda), n >= 4f + 1 (icwtm; 5f + 1 under plain "
        "sending, where liars who tell each peer another thing can stall it) or n >= 3f + 1 (rb-tm, which stands on "
        "reliable broadcast).",
        "Lower peers.f, start more peers, or choose another agreement or broadcast.",
    ),
    "MTH-0956": Explanation(
        "addresses that others can reach",
        "Nodes listen on loopback unless the cluster file says `anywhere: true`; and attackers that see what honest "
        "nodes send are for experiments on one machine.",
        "Set anywhere to true for a real cluster, and omniscient to false.",
    ),
    "MTH-0957": Explanation(
        "no such node", "The number given with --node is not in the cluster file.", "Choose one that is."
    ),
    "MTH-0958": Explanation(
        "no certificates yet",
        "A node is known by its certificate, whose fingerprint stands in the cluster file; here it does not.",
        "Run `mithridate byzantine keys cluster.yaml` once, then copy to each machine its own keys.",
    ),
    "MTH-0959": Explanation(
        "the state belongs to something else",
        "A folder of checkpoints belongs to one cluster file and one node; rule, numbers, model, data or seed differ.",
        "Choose another folder, or remove this one to begin anew.",
    ),
    "MTH-0960": Explanation(
        "a node's process died",
        "A process that was to be honest ended before the training did: killed, or by an error of ours.",
        "Run the same command again: nodes go on from their checkpoints. nodes/node-ID/ has what it wrote.",
    ),
    "MTH-0961": Explanation(
        "the extra `byzantine` is not installed",
        "Nodes talk over gRPC and know each other by certificates; grpcio or cryptography is missing.",
        "Install it: pip install 'mithridate[byzantine]', with the quotes.",
    ),
    "MTH-0962": Explanation(
        "Byzantine nodes without a behaviour",
        "Nodes were declared Byzantine, and nothing says what they do.",
        "Name an attack with --attack or --server-attack; the message lists them.",
    ),
    "MTH-0963": Explanation(
        "more broken rows than the rule bears",
        "More nodes than f sent NaN or infinity; honest vectors must be finite.",
        "Raise f and the number of nodes, or lower the step size if honest nodes diverge.",
    ),
    # 106x to 109x asking models about keys, and the flows of ownership
    # 10xx ownership of data sets
    "MTH-1000": Explanation(
        "the extra `ownership` is not installed",
        "Certificates are signed and timestamps checked by the packages cryptography and rfc3161-client.",
        "Install it: pip install 'mithridate[ownership]', with the quotes.",
    ),
    "MTH-1001": Explanation(
        "the secret is not there",
        "All keys and the signing key are derived from the secret file. Without it no key can be derived or "
        "revealed, no "
        "model asked, and no certificate signed; certificates that were issued stay valid.",
        "Look for a copy. If there is none, make a new secret and mark the data anew, for models trained from then on.",
    ),
    "MTH-1002": Explanation(
        "a secret is not overwritten",
        "The file that was to take the new secret exists; data that were marked with the old one need it.",
        "Name another file.",
    ),
    "MTH-1003": Explanation(
        "others can read the secret",
        "Whoever reads the secret can derive all keys, and sign for the owner.",
        "chmod 600 the file; if somebody may have read it, make a new secret and mark the data anew.",
    ),
    "MTH-1004": Explanation(
        "no whole secret",
        "A secret has 32 bytes, in a file with check digits; this has not.",
        "Restore a copy of the file.",
    ),
    "MTH-1005": Explanation(
        "keys that cannot be",
        "The number of answers that count must be below the number of classes, the noise must not be finer than "
        "the image, "
        "and keys are numbered from 0.",
        "Change the value that the message names.",
    ),
    "MTH-1006": Explanation(
        "nothing that can be committed to",
        "A commitment needs hashes of 64 hexadecimal digits, as many class names as labels, each once, a level "
        "between 0 "
        "and 1, and a number of keys for each dispute that divides the number of keys.",
        "Change the value that the message names.",
    ),
    "MTH-1007": Explanation(
        "no whole commitment",
        "The file is no commitment of this version, or its content does not give the value that it states.",
        "Get a fresh copy of it; the published value and timestamp say which one is right.",
    ),
    "MTH-1008": Explanation(
        "no timestamp",
        "The file is no RFC 3161 response, the authority refused, or the response is for another commitment or "
        "request.",
        "Send the request file to the authority again, and keep its response as it comes.",
    ),
    "MTH-1009": Explanation(
        "the timestamp's signature is not good",
        "The response is not signed by an authority that the given certificates vouch for.",
        "Give the certificate of the authority that was asked, in PEM; get a fresh response if that is the one.",
    ),
    "MTH-1010": Explanation(
        "numbers that no test has",
        "Hits lie between 0 and the number of keys, answers that count between 1 and the number of classes, ranks "
        "too, and "
        "chances between 0 and 1.",
        "Change the value that the message names.",
    ),
    "MTH-1011": Explanation(
        "no number of keys is enough",
        "A model that hits no more often than chance cannot be told from an innocent one.",
        "Raise the hit rate by a larger budget or epsilon, and measure it with `own selfcheck`.",
    ),
    "MTH-1012": Explanation(
        "a verification that cannot begin",
        "A verification is written into the diary with a description of who is asked; blocks of keys are used in "
        "order.",
        "Describe the model, and choose a block that the message allows.",
    ),
    "MTH-1013": Explanation(
        "the diary was altered",
        "The diary is a chain of hashes that begins with the commitment; a record does not fit.",
        "Restore the file. A new diary would hide earlier verifications, which a reader of two certificates sees.",
    ),
    "MTH-1014": Explanation(
        "not in the form of our documents",
        "Documents that are hashed or signed have text, whole numbers, fractions num/den in lowest terms, and "
        "times in UTC.",
        "Change the value that the message names, or get a fresh copy.",
    ),
    "MTH-1015": Explanation(
        "a certificate that cannot be issued",
        "Secret, commitment, diary, beacon and answers must belong together: one answer for each key, in their "
        "order, none "
        "before the timestamp.",
        "Use the files of one commitment, and set the clock right.",
    ),
    # 1030-1059 marking
    "MTH-1030": Explanation(
        "a key's class has no image to carry it",
        "A key is carried by images of its own under the key's label, and that class is too small for all its keys.",
        "Add images of the class, or make keys for another data set. A label is never drawn anew: that would spoil the "
        "test.",
    ),
    "MTH-1031": Explanation(
        "keys that do not fit the data",
        "Keys have the shape and the classes of the data set that they were committed for, and one index each.",
        "Mark the data set that the commitment names, loaded at the size that it names.",
    ),
    "MTH-1032": Explanation(
        "no gradient at a key",
        "A surrogate has a loss of exactly zero, or none that is finite, at a key: there is no direction to match.",
        "Train the surrogate for fewer epochs, or with a smaller step size if it diverged.",
    ),
    "MTH-1033": Explanation(
        "no surrogate",
        "Marks are made at a network that was trained on the clean data.",
        "Give one or more trained networks.",
    ),
    "MTH-1034": Explanation(
        "LPIPS is not on this machine",
        "The penalty `lpips` needs the package lpips and the weights of VGG-16, which this program does not download.",
        "Install lpips and put the weights where torchvision keeps them, or use `high-pass` or `ssim`.",
    ),
    "MTH-1035": Explanation(
        "marks for other data",
        "Marked images replace rows of one data set, known by its fingerprint; this one has another.",
        "Restore the data set, load it with the same options, or mark it again.",
    ),
    "MTH-1036": Explanation(
        "a budget below one image a key",
        "The budget of all keys together is smaller than the number of keys.",
        "Raise the total budget or use fewer keys.",
    ),
    "MTH-1040": Explanation(
        "the data set has no files to write marks into",
        "Marked images are written into image folders and parquet files; what is embedded or on the hub is neither.",
        "Export the data set as an image folder or as parquet, and mark that.",
    ),
    "MTH-1041": Explanation(
        "a table of bare pixels",
        "Images in a parquet file are replaced where they are encoded (PNG, JPEG, WebP), not where they are numbers.",
        "Store them as encoded bytes, PNG for instance.",
    ),
    "MTH-1042": Explanation(
        "the place to write to is taken",
        "The marked data set goes to a new folder outside the clean one, and the manifest of marks to a new file.",
        "Choose other names. Never overwrite a manifest of marks: it is the only record of which images carry them.",
    ),
    "MTH-1043": Explanation(
        "the files are not those that were loaded",
        "The number of training images on disk differs from what was loaded and marked.",
        "Load the data set again and mark it again.",
    ),
    "MTH-1045": Explanation(
        "more different labels than classes",
        "The law of labels without replacement is for at most as many keys as there are classes.",
        "Give no more keys than classes, and no more hits than keys.",
    ),
    "MTH-1046": Explanation(
        "no features to make radioactive",
        "Radioactive marks push features along one direction a class; the network must show its features and its head.",
        "Use a built-in network, and a test set with at least as many images as the features have dimensions.",
    ),
    "MTH-1060": Explanation(
        "A class map that leads nowhere",
        "A class map says which committed class each name of a model stands for; one of its entries names another.",
        "Correct the entry; the message lists the committed classes.",
    ),
    "MTH-1061": Explanation(
        "A model that shares no class with the commitment",
        "Answers are read by the names of the classes. None of the model's names is a committed class, so no key could "
        "ever be hit.",
        "Give the names that the model uses with --class-map FILE, or check that it is the right model.",
    ),
    "MTH-1062": Explanation(
        "Keys of another size than the model takes",
        "A key is asked as it was committed, pixel by pixel, and this network takes images of another shape.",
        "Put what scales the input of the model before it, and ask it with --command or --http.",
    ),
    "MTH-1063": Explanation(
        "No table of predictions",
        "The file is no CSV table whose first column names keys and whose other columns hold labels, best first.",
        "Let `mithridate own verify --queries DIR` write the images of the keys and a table to fill in.",
    ),
    "MTH-1064": Explanation(
        "The folder for the queries is not empty",
        "The images of the keys are written to a folder of their own.",
        "Give a new or empty folder.",
    ),
    "MTH-1065": Explanation(
        "A command that cannot be started",
        "The words after --command are no command, or name no program.",
        "Check path, quotes and permissions; no shell reads the command, so pipes and variables belong into a script.",
    ),
    "MTH-1066": Explanation(
        "An address or a token that cannot be used",
        "A service is named by an http or https address without a password; a token comes from the environment.",
        "Correct the address; export the variable.",
    ),
    "MTH-1067": Explanation(
        "A timestamp that is neither request nor none",
        "A commitment is written with a request for a trusted timestamp, or without one.",
        "Write --timestamp request or --timestamp none.",
    ),
    "MTH-1068": Explanation(
        "A surrogate for other data",
        "Marks are made at networks that were trained on the data; this one has other classes, channels or sizes.",
        "Train one with `mithridate train --data`, or leave out --surrogate.",
    ),
    "MTH-1069": Explanation(
        "A budget that is none",
        "The budget of a key is a share of the data below 1, a percentage, or a whole number of images.",
        "Write for example --budget 0.1% or --budget 14.",
    ),
    "MTH-1071": Explanation(
        "The data are not those that were committed",
        "A commitment names the fingerprint of the data set; the one at hand has another.",
        "Load the data as they were when they were committed, or make a new commitment before they are published.",
    ),
    "MTH-1072": Explanation(
        "A clock that runs before the timestamp",
        "The commitment has a timestamp that lies after the present time of this machine, so that one of the clocks is "
        "wrong and a certificate would claim that keys were asked before they were committed.",
        "Correct the clock of this machine.",
    ),
    "MTH-1073": Explanation(
        "A beacon that cannot be read",
        "A beacon is a public random value that nobody could know when the keys were committed, and where it is found.",
        "Write --beacon SOURCE=HEX, such as --beacon drand/quicknet/1234567=9f3a... with 16 to 64 bytes.",
    ),
    "MTH-1074": Explanation(
        "Not one model to ask",
        "A verification asks one model, in one way.",
        "Give exactly one of --model, --predictions, --command and --http.",
    ),
    "MTH-1075": Explanation(
        "A class map that cannot be read",
        "A class map is a JSON object from the names that a model uses to names of committed classes.",
        'Write for example {"tabby cat": "cat"}.',
    ),
    "MTH-1076": Explanation(
        "A file of ownership is there already",
        "Secrets, commitments and certificates are evidence; none is ever overwritten.",
        "Give another name, or move the old file.",
    ),
    "MTH-1077": Explanation(
        "Files that do not belong together",
        "A secret, a commitment, the marks and a beacon belong to each other; here one is of another set.",
        "Use the files that were made together.",
    ),
    "MTH-1078": Explanation(
        "Not the marked form of the data",
        "A self-check of written marks compares two sets of the same images, of which some differ.",
        "Give the data that were committed to, and with --marked what `own mark` wrote; leave out what makes marks.",
    ),
    "MTH-1079": Explanation(
        "The demonstration takes nothing else",
        "`own --demo` brings its own data, keys and models.",
        "Leave out the verb, or leave out --demo.",
    ),
}
