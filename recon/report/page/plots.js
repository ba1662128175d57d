// The plots: data and axes come drawn up, colours follow the page. A plot is drawn when it comes near the window.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("plots-data").textContent);
  const places = [...document.querySelectorAll(".plot")];
  const near = new Set();
  const config = { displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  function draw(place) {
    const { data, layout } = figures[places.indexOf(place)];
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const shown = new Set([...document.querySelectorAll("#rows :checked")].map((box) => Number(box.value)));
    const traces = data.map((trace) => {
      const own = trace.meta ? colour(`--row-${trace.meta.row}`) : colour("--muted");
      return {
        ...trace,
        visible: !trace.meta || shown.has(trace.meta.row),
        line: { ...trace.line, color: own },
        marker: { ...trace.marker, color: own },
        ...(trace.error_x && { error_x: { ...trace.error_x, color: own }, error_y: { ...trace.error_y, color: own } }),
      };
    });
    const strong = colour("--strong-line");
    const axis = { gridcolor: colour("--line"), linecolor: strong, zerolinecolor: strong, ticks: "outside", tickcolor: strong, automargin: true };
    Plotly.react(place, traces, {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      shapes: layout.shapes.map((shape) => ({ ...shape, layer: "below", line: { width: 1.2, ...shape.line, color: colour("--muted") } })),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: strong, activecolor: colour("--ink") },
      hoverlabel: { bgcolor: colour("--paper"), bordercolor: strong, align: "left", font: { color: colour("--ink") } },
      hovermode: "closest",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: false, itemdoubleclick: false },
      margin: { l: 60, r: 16, t: 16, b: 48 },
      uirevision: "kept", // zoom outlives a change of rows or theme
    }, config);
  }

  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      near.add(target);
      draw(target);
    }
  }, { rootMargin: "600px" });

  const again = () => near.forEach(draw);
  places.forEach((place) => watch.observe(place));
  document.getElementById("rows").addEventListener("change", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  addEventListener("beforeprint", () => places.forEach(draw));
})();
