// What the page adds to the nodes of skipguide: texts below them, presets in words, warnings.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const CUSTOM = "custom";
const OF_STG = [
  "layers", "skip", "scale", "start_percent", "end_percent", "rescale", "rescale_of", "normalize",
  "audio_scale", "modality_scale", "audio_rescale",
];
// The widgets that a preset takes the place of, by node.
const OVERRIDDEN = {
  SkipGuideSTG: OF_STG,
  SkipGuideGuider: OF_STG,
  SkipGuideSLG: ["layers", "skip", "start_percent", "end_percent"],
  SkipGuideSchedule: ["bins"],
};
const EXPLAINED = {
  [CUSTOM]: "The inputs above count.",
  "published for this model":
    "Found by the model once the graph runs; the greyed inputs do not count.",
};

let published = null; // of a promise: every preset as a text and as values of widgets, by name

function presets() {
  published ??= api
    .fetchApi("/skipguide/presets")
    .then((answer) => (answer.ok ? answer.json() : {}))
    .catch(() => ({}));
  return published;
}

function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** Add a text below the widgets that nobody writes into and that no workflow keeps. */
function addText(node) {
  const { widget } = ComfyWidgets.STRING(node, "said", ["STRING", { multiline: true }], app);
  widget.serialize = false;
  widget.options.serialize = false;
  widget.options.read_only = true;
  const element = widget.inputEl ?? widget.element;
  if (element) {
    element.readOnly = true;
    element.placeholder = "What it does is said here once the graph has run.";
    element.style.opacity = 0.8;
  }
  return widget;
}

function setDisabled(widget, disabled) {
  widget.disabled = disabled;
  const element = widget.inputEl ?? widget.element;
  if (element) {
    element.disabled = disabled;
    element.style.opacity = disabled ? 0.4 : 1;
  }
}

/** Grey what the preset takes the place of, and say in words what it is. */
async function showPreset(node, text) {
  const name = widgetOf(node, "preset").value;
  for (const other of OVERRIDDEN[node.comfyClass]) {
    const widget = widgetOf(node, other);
    if (widget) setDisabled(widget, name !== CUSTOM);
  }
  text.value = EXPLAINED[name] ?? (await presets())[name]?.text ?? "";
  node.setDirtyCanvas?.(true, true);
}

/** Write the values of the preset into the widgets, where they can be changed. */
async function applyPreset(node, text) {
  const chosen = widgetOf(node, "preset");
  const name = chosen.value in EXPLAINED ? node.skipguidePreset : chosen.value;
  const preset = (await presets())[name];
  if (!preset) {
    notify("info", "Choose a preset by name, or run the graph once: then it is known which is for the model.");
    return;
  }
  for (const [key, value] of Object.entries(preset.values)) {
    const widget = widgetOf(node, key);
    if (widget) {
      widget.value = value;
      widget.callback?.(value);
    }
  }
  chosen.value = CUSTOM;
  await showPreset(node, text);
  text.value = `The values of ${preset.text}`;
}

function notify(severity, detail) {
  const toast = app.extensionManager?.toast;
  if (toast) toast.add({ severity, summary: "skipguide", detail, life: 12000 });
  else console.warn(`skipguide: ${detail}`);
}

function follow(widget, then) {
  const before = widget.callback;
  widget.callback = function (...given) {
    const result = before?.apply(this, given);
    then();
    return result;
  };
}

app.registerExtension({
  name: "skipguide",

  setup() {
    api.addEventListener("skipguide.warning", ({ detail }) => notify("warn", detail.text));
  },

  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SkipGuide")) return;
    const text = addText(node);
    const chosen = node.comfyClass in OVERRIDDEN ? widgetOf(node, "preset") : null;
    if (chosen) {
      const button = node.addWidget("button", "Apply preset", null, () => applyPreset(node, text));
      button.serialize = false;
      button.options.serialize = false;
      const show = () => showPreset(node, text);
      follow(chosen, show);
      const configured = node.onConfigure; // the values of a workflow come after the node is made
      node.onConfigure = function (...given) {
        configured?.apply(this, given);
        show();
      };
      show();
    }
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      const said = output?.text;
      if (said?.length) text.value = Array.isArray(said) ? said.join("\n") : said;
      if (output?.skipguide_preset?.[0]) node.skipguidePreset = output.skipguide_preset[0];
    };
  },
});
