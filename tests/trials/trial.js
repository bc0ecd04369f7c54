// A handler on node-fastcgi, and for some recipients what goes wrong in life. Usage: trial.js PORT
'use strict';
const fs = require('fs');
const path = require('path');
const fastcgi = require('node-fastcgi');

const known = process.env.FCGIMAIL_RCPTS.split(' ');

// The fields by name, as octets: querystring.unescapeBuffer leaves what is no escape alone.
function readFields(form) {
  const fields = new Map();
  for (const pair of form.toString('latin1').split('&')) {
    const equals = pair.indexOf('=');
    const value = pair.slice(equals + 1).replace(/\+/g, ' ');
    const octets = value.replace(/%([0-9A-Fa-f]{2})/g, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
    fields.set(pair.slice(0, equals), Buffer.from(octets, 'latin1'));
  }
  return fields;
}

function save(fields) {
  const body = fields.get('body');
  const digest = fields.get('mail_digest').toString();
  if (String(body.length) !== fields.get('size').toString() || !/^[0-9a-f]{64}$/.test(digest)) {
    throw new Error('the mail is not complete');
  }
  const final = path.join(process.env.FCGIMAIL_DIR, digest + '.eml');
  fs.writeFileSync(final + '.tmp', body, { flush: true, mode: 0o600 });
  fs.renameSync(final + '.tmp', final);
  return 'SAVED id=' + digest.slice(0, 16);
}

function answer(fields, response) {
  if (String(fields.get('stage')) === 'validate') {
    response.end(known.includes(String(fields.get('rcpt_to'))) ? 'PASSED' : '550 5.1.1 no such user');
    return;
  }
  switch (String(fields.get('rcpt_to_0'))) {
    case 'rejects@example.com':
      return response.end('550 5.7.1 Not this one');
    case 'slow@example.com':
      return setTimeout(() => response.end(save(fields)), 60000);
    case 'dies@example.com':
      return process.kill(process.pid, 'SIGKILL');
    case 'half@example.com':
      return response.write('SAVED', () => process.kill(process.pid, 'SIGKILL'));
    case 'noisy@example.com':
      response.stderr.write('noise of the script');
  }
  response.end(save(fields));
}

const server = fastcgi.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    response.setHeader('Content-Type', 'text/plain');
    try {
      const query = request.cgiParams.QUERY_STRING;
      answer(readFields(request.method === 'POST' ? Buffer.concat(parts) : Buffer.from(query)), response);
    } catch (error) {
      response.stderr.write(`trial.js: ${error.message}`);
      response.end('451 4.3.0 could not do it now, try again later');
    }
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
