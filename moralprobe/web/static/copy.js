// What is on the page as a link, a command line or Python, none of which holds the token.
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function linkOf(request) {
  return `${location.origin}/#state=${encodeURIComponent(JSON.stringify(request))}`;
}

function curlOf(request) {
  return `curl -N ${location.origin}/api/steer -H 'content-type: application/json' -d ${shell(JSON.stringify(request))}`;
}

function pythonOf(request) {
  // JSON that is read by json.loads is right whatever a prompt holds.
  return [
    "import json, httpx",
    "",
    `request = json.loads(${JSON.stringify(JSON.stringify(request))})`,
    `with httpx.stream("POST", "${location.origin}/api/steer", json=request, timeout=None) as answer:`,
    "    for line in answer.iter_lines():",
    "        print(line)",
  ].join("\n");
}

export function copyOf(kind, request) {
  return { link: linkOf, curl: curlOf, python: pythonOf }[kind](request);
}
