// A line for each file named on the command line: shape, class, and the values in C order.
"use strict";
const { readFileSync } = require("node:fs");
const npyjs = require("npyjs");

// npyjs hands out the values as they lie in the file.
function* placesInCOrder(shape, fortranOrder) {
  const count = shape.reduce((product, length) => product * length, 1);
  for (let place = 0; place < count; place++) {
    let rest = place;
    let inFile = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const before = shape.slice(0, axis).reduce((product, length) => product * length, 1);
      inFile += (rest % shape[axis]) * before;
      rest = Math.floor(rest / shape[axis]);
    }
    yield fortranOrder ? inFile : place;
  }
}

function text(value) {
  return Object.is(value, -0) ? "-0" : String(typeof value === "boolean" ? Number(value) : value);
}

(async () => {
  for (const path of process.argv.slice(2)) {
    try {
      const { data, shape, dtype, fortranOrder } = await npyjs.load(readFileSync(path));
      const parts = dtype.startsWith("c") ? [0, 1] : [0];
      const values = [];
      for (const place of placesInCOrder(shape, fortranOrder)) {
        for (const part of parts) values.push(text(data[place * parts.length + part]));
      }
      console.log(`${shape.join(" ")}|${data.constructor.name}|${values.join(" ")}`);
    } catch (failure) {
      console.log(`error|${failure.message}`);
    }
  }
})();
