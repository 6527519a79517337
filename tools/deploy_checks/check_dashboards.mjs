// check_dashboards reads a JSON array of Grafana dashboards from standard input and checks each against Grafana's `Dashboard` type,
// fields that it does not have included. Prints what is wrong; status 1 if anything is.
import {readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import ts from 'typescript';

const dashboards = JSON.parse(readFileSync(0, 'utf8'));
// TypeScript refuses fields in a literal that its type does not have; each dashboard is one.
let source = "import type {Dashboard} from '@grafana/schema';\n";
const starts = dashboards.map((dashboard, index) => {
  const start = source.length;
  source += `export const dashboard${index}: Dashboard = ${JSON.stringify(dashboard, null, 1)};\n`;
  return start;
});

function typeErrors() {
  const file = fileURLToPath(new URL('dashboards.ts', import.meta.url));
  const options = {module: ts.ModuleKind.NodeNext, strict: true, noEmit: true, skipLibCheck: true, types: []};
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  host.getSourceFile = (name, ...rest) =>
      name === file ? ts.createSourceFile(name, source, ts.ScriptTarget.ES2022) : read(name, ...rest);
  return ts.getPreEmitDiagnostics(ts.createProgram([file], options, host)).map((diagnostic) => {
    const index = starts.findLastIndex((start) => start <= (diagnostic.start ?? 0));
    return `${dashboards[index]?.uid}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n  ')}`;
  });
}

const faults = dashboards.length === 0 ? ['no dashboards in the input'] : typeErrors();
for (const fault of faults) console.log(fault);
process.exit(faults.length === 0 ? 0 : 1);
