// validate_crds reads a JSON array of resources from standard input and checks each against what the custom resource definitions of
// the Prometheus operator say: their types, which know every field, and their schemas, which know ranges and patterns. Prints what is
// wrong; status 1 if anything is.
import {readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import ts from 'typescript';

const packageOf = (resource) => `@kubernetes-models/prometheus-operator/${resource.apiVersion}/${resource.kind}`;

// TypeScript refuses fields in a literal that its type does not have, which the schemas let pass.
function typeErrors(resource) {
  const file = fileURLToPath(new URL('resource.ts', import.meta.url));
  const source =
      `import type {I${resource.kind}} from '${packageOf(resource)}';\n` +
      `export const resource: I${resource.kind} = ${JSON.stringify(resource, null, 1)};\n`;
  const options = {module: ts.ModuleKind.NodeNext, strict: true, noEmit: true, skipLibCheck: true, types: []};
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  host.getSourceFile = (name, ...rest) =>
      name === file ? ts.createSourceFile(name, source, ts.ScriptTarget.ES2022) : read(name, ...rest);
  const diagnostics = ts.getPreEmitDiagnostics(ts.createProgram([file], options, host));
  return diagnostics.map((d) => ts.flattenDiagnosticMessageText(d.messageText, '\n  '));
}

async function schemaErrors(resource) {
  const module = await import(packageOf(resource));
  try {
    new module[resource.kind](resource).validate();
    return [];
  } catch (error) {
    return [error.message];
  }
}

const resources = JSON.parse(readFileSync(0, 'utf8'));
const faults = resources.length === 0 ? ['no resources in the input'] : [];
for (const resource of resources) {
  const found = [...typeErrors(resource), ...(await schemaErrors(resource))];
  faults.push(...found.map((text) => `${resource.kind} ${resource.metadata?.name}: ${text}`));
}
for (const fault of faults) console.log(fault);
process.exit(faults.length === 0 ? 0 : 1);
