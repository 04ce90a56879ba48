// What is on the page as a link, a command line or Python, none of which holds the token.
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function linkOf(request) {
  return `${location.origin}/#state=${encodeURIComponent(JSON.stringify(request))}`;
}

function curlOf(request, token) {
  const known = token ? ` -H "authorization: Bearer $MORALPROBE_TOKEN"` : "";
  return `curl -N ${location.origin}/api/steer${known} -H 'content-type: application/json' -d ${shell(JSON.stringify(request))}`;
}

function pythonOf(request, token) {
  // JSON that is read by json.loads is right whatever a prompt holds.
  return [
    token ? "import json, os, httpx" : "import json, httpx",
    "",
    ...(token ? ['headers = {"authorization": f"Bearer {os.environ[\'MORALPROBE_TOKEN\']}"}'] : []),
    `request = json.loads(${JSON.stringify(JSON.stringify(request))})`,
    `with httpx.stream("POST", "${location.origin}/api/steer", json=request, timeout=None${token ? `, headers=headers` : ""}) as answer:`,
    "    for line in answer.iter_lines():",
    "        print(line)",
  ].join("\n");
}

export function copyOf(kind, request, token) {
  return { link: linkOf, curl: curlOf, python: pythonOf }[kind](request, token);
}
