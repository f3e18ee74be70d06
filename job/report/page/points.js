// Draws many points on a canvas, by WebGL, or slower without it. Plotly's own WebGL traces need eval, which the policy
// of the page forbids.
const makePoints = (canvas, x, y) => {
  const gl = canvas.getContext("webgl", { preserveDrawingBuffer: true, antialias: true }); // kept for printing
  const count = x.length;
  let colors = new Uint8Array(4 * count);

  const resize = () => {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return ratio;
  };

  if (!gl) {
    const context = canvas.getContext("2d");
    const draw = ({ left, right, bottom, top, size }) => {
      const side = size * resize();
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (let point = 0; point < count; point += 1) {
        const [red, green, blue, alpha] = colors.subarray(4 * point, 4 * point + 4);
        context.fillStyle = `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
        const across = ((x[point] - left) / (right - left)) * canvas.width;
        const down = ((top - y[point]) / (top - bottom)) * canvas.height;
        context.fillRect(across - side / 2, down - side / 2, side, side);
      }
    };
    return { draw, color: (values) => { colors = values; } };
  }

  const compile = (kind, source) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    return shader;
  };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, `
    attribute vec2 place;
    attribute vec4 color;
    uniform vec2 center, reach;
    uniform float size;
    varying vec4 shade;
    void main() { gl_Position = vec4((place - center) / reach, 0.0, 1.0); gl_PointSize = size; shade = color; }`));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `
    precision mediump float;
    varying vec4 shade;
    void main() {
      float far = length(gl_PointCoord - 0.5);
      float alpha = shade.a * (1.0 - smoothstep(0.4, 0.5, far));
      vec3 ink = shade.rgb * (1.0 - 0.4 * smoothstep(0.25, 0.4, far)); // an edge, for pale colours
      gl_FragColor = vec4(ink * alpha, alpha);
    }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const fill = (name, values, width, type, normalized) => {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, type, normalized, 0, 0);
  };
  const places = new Float32Array(2 * count);
  for (let point = 0; point < count; point += 1) places.set([x[point], y[point]], 2 * point);
  fill("place", places, 2, gl.FLOAT, false);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const draw = ({ left, right, bottom, top, size }) => {
    const ratio = resize();
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(uniform("center"), (left + right) / 2, (bottom + top) / 2);
    gl.uniform2f(uniform("reach"), (right - left) / 2, (top - bottom) / 2);
    gl.uniform1f(uniform("size"), size * ratio);
    gl.drawArrays(gl.POINTS, 0, count);
  };
  return { draw, color: (values) => fill("color", values, 4, gl.UNSIGNED_BYTE, true) };
};
