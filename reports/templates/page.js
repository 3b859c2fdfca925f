(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const charts = [...document.querySelectorAll("[data-figure]")];
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Layout that depends on the screen. The figures contain data, ranges and titles.
  const themed = (layout, width) => {
    const axis = (own) => ({ ...own, automargin: true, gridcolor: colour("--grid"), linecolor: colour("--line"),
      zerolinecolor: colour("--grid"), title: { ...(own.title || {}), font: { size: 12 } } });
    const rows = layout.showlegend && width < 560 ? 150 : 0;  // a narrow legend has one entry per line
    return { ...layout, height: layout.height + rows, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      margin: { l: 12, r: 12, t: layout.annotations && layout.annotations.length ? 24 : 8, b: 12 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), align: "left", font: { color: colour("--ink") } } };
  };
  const draw = () => charts.forEach((chart) => {
    const figure = JSON.parse(document.getElementById(chart.dataset.figure).textContent);
    Plotly.react(chart, figure.data, themed(figure.layout, chart.clientWidth), { displayModeBar: false, responsive: true });
  });

  let width = window.innerWidth;
  draw();
  window.addEventListener("resize", () => {
    if ((width < 620) !== (window.innerWidth < 620)) draw();
    width = window.innerWidth;
  });
  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", () => {
    root.classList.add("printing");
    document.querySelectorAll("details").forEach((part) => { part.dataset.was = part.open; part.open = true; });
    draw();
  });
  window.addEventListener("afterprint", () => {
    root.classList.remove("printing");
    document.querySelectorAll("details").forEach((part) => { part.open = part.dataset.was === "true"; });
    draw();
  });
})();
