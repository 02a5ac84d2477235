// Draws one dashboard with Grafana's own components, from a file of queries' answers. See shots.py.
import { createTheme, FieldType, getDisplayProcessor, ThemeContext, dateTime } from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, TimeSeries, TooltipDisplayMode } from "@grafana/ui";
import "uplot/dist/uPlot.min.css";
import { createRoot } from "react-dom/client";

const theme = createTheme({ colors: { mode: "dark" } });
const COLUMN = 56;
const ROW = 36;
const GAP = 8;

// A column of numbers with the panel's unit and colours.
function field(panel, name, values) {
  const { custom, links, ...defaults } = panel.fieldConfig.defaults;
  const override = panel.fieldConfig.overrides.find((override) => override.matcher.options === name);
  const unit = override?.properties[0].value ?? defaults.unit;
  const made = {
    name,
    type: FieldType.number,
    values,
    state: { displayName: name },
    config: {
      ...defaults,
      unit,
      displayName: name,
      color: { mode: panel.type === "timeseries" ? "palette-classic" : "thresholds" },
      custom: { drawStyle: "line", lineInterpolation: "linear", axisPlacement: "auto", scaleDistribution: { type: "linear" }, ...custom },
    },
  };
  made.display = getDisplayProcessor({ field: made, theme });
  return made;
}

function frames(panel, answers, window) {
  const times = [];
  for (let time = window[0]; time <= window[1]; time += window[2]) times.push(time);
  return answers.flat().map(({ name, values }, index) => {
    const known = new Map(values.map(([time, value]) => [Math.round(time), Number(value)]));
    const made = field(panel, name, times.map((time) => known.get(Math.round(time)) ?? null));
    made.state = { displayName: name, seriesIndex: index };
    const time = { name: "time", type: FieldType.time, values: times.map((time) => time * 1000), config: {} };
    time.display = getDisplayProcessor({ field: time, theme });
    return { fields: [time, made], length: times.length, refId: String(index) };
  });
}

function last(panel, series) {
  const [, value] = series.values[series.values.length - 1];
  return field(panel, series.name, [Number(value)]).display(Number(value));
}

// Grafana's own table wants a running Grafana around it.
function table(panel, answers) {
  const rows = new Map();
  panel.targets.forEach((target, index) => {
    for (const series of answers[index]) {
      const labels = Object.values(series.labels).join(" ");
      const row = rows.get(labels) ?? { job: labels };
      row[target.legendFormat] = last(panel, { ...series, name: target.legendFormat });
      rows.set(labels, row);
    }
  });
  const names = ["job", ...panel.targets.map((target) => target.legendFormat)];
  const shown = (value) => (typeof value === "object" ? `${value.text}${value.suffix ?? ""}` : (value ?? ""));
  const cell = { textAlign: "left", padding: "4px 8px" };
  return (
    <table style={{ width: "100%" }}>
      <thead><tr>{names.map((name) => <th key={name} style={cell}>{name}</th>)}</tr></thead>
      <tbody>
        {[...rows].map(([key, row]) => (
          <tr key={key}>{names.map((name) => <td key={name} style={cell}>{shown(row[name])}</td>)}</tr>
        ))}
      </tbody>
    </table>
  );
}

function body(panel, answers, window, width, height) {
  const series = answers.flat();
  if (series.length === 0) return <div style={{ padding: 16, color: theme.colors.text.secondary }}>No data</div>;
  if (panel.type === "table") return table(panel, answers);
  if (panel.type === "stat") {
    const shown = last(panel, series[series.length - 1]);
    const named = panel.options.textMode === "name";
    const value = named ? { ...shown, text: series[series.length - 1].name, suffix: "", prefix: "" } : { ...shown, title: "" };
    return <BigValue theme={theme} width={width} height={height} value={value} colorMode="value" graphMode="none" justifyMode="auto" textMode={named ? "value" : "auto"} />;
  }
  if (panel.type === "bargauge") {
    const each = Math.min(60, height / series.length);
    return series.map((one) => (
      <div key={one.name} style={{ display: "flex", height: each }}>
        <BarGauge theme={theme} width={width} height={each - 4} value={{ ...last(panel, one), title: one.name }} field={field(panel, one.name, [])["config"]} display={field(panel, one.name, []).display} orientation="horizontal" displayMode="basic" />
      </div>
    ));
  }
  return (
    <TimeSeries frames={frames(panel, answers, window)} width={width} height={height} timeZone="utc"
      timeRange={{ from: dateTime(window[0] * 1000), to: dateTime(window[1] * 1000), raw: { from: "", to: "" } }}
      structureRev={1} legend={panel.options.legend} options={{ tooltip: { mode: TooltipDisplayMode.None } }}
      theme={theme} />
  );
}

function Dashboard({ document, answers, window }) {
  return (
    <div style={{ position: "relative", width: 24 * COLUMN + GAP }}>
      {document.panels.map((panel) => {
        const { x, y, w, h } = panel.gridPos;
        const [width, height] = [w * COLUMN - GAP, h * ROW - GAP];
        const place = { position: "absolute", left: x * COLUMN + GAP, top: y * ROW + GAP, width, height };
        if (panel.type === "row") return <h4 key={panel.id} style={place}>{panel.title}</h4>;
        return (
          <div key={panel.id} style={{ ...place, background: theme.colors.background.primary, border: `1px solid ${theme.colors.border.weak}`, overflow: "hidden" }}>
            <div style={{ padding: "6px 8px", fontSize: 14, fontWeight: 500 }}>{panel.title}</div>
            {body(panel, answers[panel.id], window, width - 4, height - 34)}
          </div>
        );
      })}
    </div>
  );
}

document.body.style.cssText = `margin:0;background:${theme.colors.background.canvas};color:${theme.colors.text.primary};font-family:Inter,Helvetica,Arial,sans-serif`;
createRoot(document.getElementById("root")).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <Dashboard {...globalThis.SHOWN} />
  </ThemeContext.Provider>,
);
